"""Several GPUs, or several CPU processes, through torchrun: each rank computes its share of every batch.

    torchrun --standalone --nproc-per-node=2 -m vit_edu train --recipe gpu --out runs/two

All ranks go through the same shuffled epoch with the same random numbers. So each knows the whole batch after augmentation,
and takes its share of the images. The gradients are averaged before the optimiser, which then does the same on every rank, so
that the weights stay equal. The recipe's batch size counts the images of all ranks together. So a run in epochs ends with the
same weights, within rounding, whatever the number of ranks, and any run may be resumed with another number. What a model draws
inside a step (stochastic depth, fewer tokens) is drawn by each rank for itself, and the batch norm of a hybrid sees only a
rank's own images, so that such runs are similar but not equal.
"""

import contextlib
import importlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from vit_edu import settings


class ParallelError(Exception):
    """The ranks of a run cannot work together. The text says why, and what to do."""


class Alone:
    """A single process. It has the same methods as `Ranks`, but they have nothing to do."""

    rank, size = 0, 1
    first = True

    def share(self, images, targets):
        """This rank's part of a batch. Returns (images, targets)."""
        return images, targets

    def averaging(self, optimizer):
        """The optimiser whose steps use the gradients of all ranks."""
        return optimizer

    def mean(self, loss):
        """The mean of a loss over the images of all ranks. loss: the mean over the share of this rank."""
        return loss

    def from_first(self, value):
        """The `value` of the first rank, a list of numbers or any object. Those of the others are not used."""
        return value

    def average_buffers(self, *models):
        """Replace the running statistics of batch norms by their mean over all ranks."""

    def own_noise(self, step):
        """A context in which every rank draws its own random numbers."""
        return contextlib.nullcontext()

    def together(self, do):
        """What `do()` returns. Where it raises an error on one rank, all raise this error, and none waits for the others."""
        return do()

    def require_same(self, about):
        """Raise ParallelError on all ranks unless `about`, a dict, is the same on all of them."""

    def first_then_others(self, load):
        """What `load()` returns. The first rank calls it before the others do, so that nothing is downloaded twice."""
        return load()


class Ranks(Alone):
    """The processes that torchrun started, as seen from one of them.

    rank: the number of this process, from 0. size: how many there are. first: whether this is rank 0, which writes and prints.
    Raises ParallelError.
    """

    def __init__(self, seed=0):
        self.rank, self.size, self.seed = dist.get_rank(), dist.get_world_size(), seed
        self.first = self.rank == 0
        self.weight = 1 / self.size  # this rank's share of the images of the batch

    def share(self, images, targets):
        count = len(images)
        if count < self.size:
            raise ParallelError(
                f"a batch of {count} images leaves {self.size - count} of {self.size} ranks without any. Start fewer ranks "
                "with --nproc-per-node, or train on more images."
            )
        self.weight = len(range(self.rank, count, self.size)) / count

        def mine(value):
            if isinstance(value, dict):
                return {name: mine(each) for name, each in value.items()}
            return value[self.rank :: self.size]

        return mine(images), mine(targets)

    def averaging(self, optimizer):
        return _AveragingOptimizer(optimizer, self)

    def mean(self, loss):
        total = torch.as_tensor(loss, dtype=torch.float32) * self.weight
        dist.all_reduce(total)
        return total if isinstance(loss, torch.Tensor) else total.item()

    def from_first(self, value):
        if isinstance(value, list):  # numbers come after every step, so they avoid pickle
            numbers = torch.tensor(value, dtype=torch.float64)
            dist.broadcast(numbers, src=0)
            return numbers.tolist()
        holder = [value]
        dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
        return holder[0]

    @torch.no_grad()
    def average_buffers(self, *models):
        for value in {id(v): v for model in models for v in model.buffers()}.values():
            if value.is_floating_point():
                total = (
                    value.double()
                )  # so that what is alike on all ranks, such as fixed positions, stays as it is
                dist.all_reduce(total)
                value.copy_(total / self.size)

    @contextlib.contextmanager
    def own_noise(self, step):
        on_cuda = torch.cuda.is_available()
        devices = [torch.cuda.current_device()] if on_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(hash((self.seed, step, self.rank)) % 2**63)
            yield

    def together(self, do):
        done = error = None
        try:
            done = do()
        except Exception as mine:
            error = mine
        for each in self._gather(error):
            if each is not None:
                raise error or each
        return done

    def require_same(self, about):
        found = self._gather(about)
        for name in about:
            for rank, other in enumerate(found):
                if other[name] != found[0][name]:
                    raise ParallelError(
                        f"{name}: {found[0][name]} on rank 0, {other[name]} on rank {rank}. All ranks need the same images and "
                        "recipe, and a folder that all of them can read."
                    )

    def first_then_others(self, load):
        loaded = self.together(lambda: load() if self.first else None)
        again = self.together(lambda: None if self.first else load())
        return loaded if self.first else again

    def _gather(self, value):
        """The values of all ranks, a list."""
        found = [None] * self.size
        dist.all_gather_object(found, value)
        return found


class _AveragingOptimizer:
    """An optimiser whose step begins by averaging the gradients over all ranks, each weighted by its number of images."""

    def __init__(self, optimizer, ranks):
        self.optimizer, self.ranks = optimizer, ranks
        self.zero_grad = optimizer.zero_grad

    @torch.no_grad()
    def step(self):
        values = [v for group in self.optimizer.param_groups for v in group["params"] if v.grad is not None]
        grads = [value.grad for value in values]
        flat = torch.cat([grad.flatten() for grad in grads]) * self.ranks.weight
        dist.all_reduce(flat)
        parts = flat.split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [p.view_as(g) for p, g in zip(parts, grads, strict=True)])
        self.optimizer.step()


# ---------------------------------------------------------------- beginning and end


def started_by_torchrun():
    """Whether torchrun started this process, in which case the environment names its rank."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()


def is_first():
    """Whether this process is the one that prints: rank 0, or the only one."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def group():
    """A context in which the processes that torchrun started can talk to each other, through NCCL on CUDA and gloo on CPUs.

    It yields what `current` returns. In a process that torchrun did not start, nothing else happens. Raises ParallelError.
    """
    if not started_by_torchrun():
        yield Alone()
        return
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local >= count:
            raise ParallelError(
                f"rank {local} of this machine has no GPU: there {'is' if count == 1 else 'are'} {count}. "
                f"Start torchrun with --nproc-per-node={count}."
            )
        torch.cuda.set_device(local)
    # Imported later, by torch itself, it would hold on to the group for good: a thread of gloo's that outlives Python aborts it
    importlib.import_module("torch.distributed.nn.functional")
    patience = settings.patience()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=patience))
    except (RuntimeError, ValueError) as error:
        raise ParallelError(_why_no_group(error)) from error
    try:
        yield Ranks()
    except RuntimeError as error:
        if "Timed out waiting" not in str(error):  # of gloo; NCCL ends the process itself
            raise
        raise ParallelError(
            f"another rank has not answered for {patience:g} minutes: it hangs, or was suspended. End the run, and look at that rank. The "
            "same command goes on from the last checkpoint. If a rank may take longer, set VIT_EDU_PATIENCE to more minutes."
        ) from error
    finally:
        dist.destroy_process_group()


def _why_no_group(error):
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    if "EADDRINUSE" in str(error) or "already in use" in str(error):
        return (
            f"the port of {place} is in use, probably by another run. Let torchrun choose a free one with --standalone, or "
            "name another with --master-port."
        )
    return f"the ranks could not find each other at {place}: {str(error).strip().splitlines()[0]}"


def current(seed=0):
    """The ranks of this run: `Ranks` inside `group` if torchrun started this process, else `Alone`."""
    return Ranks(seed) if dist.is_available() and dist.is_initialized() else Alone()
