"""Files of a repository on the Hugging Face Hub: from a cache or from the network, with the person's token, always verified.

huggingface_hub finds the file, the token and HF_ENDPOINT. The download is that of `files`, which goes on where it broke off and
does not wait for minutes where a server asks for patience.
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from vit_edu.data import network
from vit_edu.pretrained import files
from vit_edu.pretrained.names import WeightsError

HUB = "https://huggingface.co"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def place(repo, filename):
    """Where a file is kept, and where it may be put by hand."""
    return files.cache_dir() / "hub" / repo.replace("/", "--") / filename


def cached(repo, filename):
    """A file of a repository in our cache or in the Hub's own, or None if it is in neither. Raises WeightsError for a wrong name."""
    target = place(repo, filename)
    if target.exists():
        return target
    try:
        from huggingface_hub import errors, try_to_load_from_cache
    except ImportError:
        return None
    try:
        theirs = try_to_load_from_cache(repo, filename)
    except errors.HFValidationError:
        raise WeightsError(
            f"{repo!r} cannot be the name of a repository on the Hugging Face Hub. Check how it is spelt."
        ) from None
    return Path(theirs) if isinstance(theirs, str) else None


def get(repo, filename, optional=False, check=None):
    """The path of one file of a repository, downloaded if it is not here. None if it is `optional` and not there.

    check: called with the path of what is here or has arrived, raises WeightsError for what is of no use. A file that it refuses
    is not kept. If it is in a cache, the Hub is asked whether there is another one by now.
    Raises WeightsError, which says what kept the file from coming and where to put it by hand.
    """
    found = cached(repo, filename)
    if not found:
        return _download(repo, filename, optional, check)
    try:
        _require_named_digest(found)
        if check:
            check(found)
    except WeightsError as error:
        if not check:
            raise
        try:
            another = _download(repo, filename, optional, check, instead_of=found)
        except WeightsError as other:
            raise error from other  # what is wrong with the file that is here
        if not another:
            raise
        return another
    return found


def _require_named_digest(path):
    """Raise WeightsError if a file in the Hub's cache was altered: it is a link to one that is named by its digest."""
    blob = path.resolve()
    if blob.parent.name == "blobs" and _is_digest(blob.name):
        files.require_digest(path, blob.name)


def _is_digest(etag):
    return bool(re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", etag or ""))


def _download(repo, filename, optional, check, instead_of=None):
    """The file, from the network. instead_of: a file that is of no use; None if that is what the Hub has."""
    target = place(repo, filename)
    try:
        import huggingface_hub as hub
    except ImportError:
        by_hand = _by_hand(f"{os.environ.get('HF_ENDPOINT', HUB)}/{repo}/resolve/main/{filename}", target)
        raise WeightsError(
            f"{repo} is a repository of the Hugging Face Hub: pip install huggingface_hub, and load again.{by_hand}"
        ) from None
    url = hub.hf_hub_url(repo, filename)
    by_hand = _by_hand(url, target)
    try:
        about = _metadata(hub, repo, url, by_hand)
    except hub.errors.EntryNotFoundError:
        if optional:
            return None
        raise WeightsError(f"the repository {repo} has no {filename}.") from None
    digest = about.etag if _is_digest(about.etag) else ""
    if not digest and not check:  # where there are only numbers, nobody sees damage
        ask = "" if url.startswith(HUB) else f" Unset HF_ENDPOINT, and {HUB} will be asked."
        raise WeightsError(
            f"{url} cannot be verified, because the server gives no digest of it.{ask}{by_hand}"
        )
    if instead_of:
        if digest and files.has_digest(instead_of, digest):
            return None
        target.unlink(missing_ok=True)
    same_server = urlsplit(about.location)[:2] == urlsplit(url)[:2]
    token = hub.utils.build_hf_headers().get("authorization", "") if same_server else ""
    return files.fetch(about.location, target, digest, by_hand, token, check)


def _by_hand(url, target):
    return f" If there is no network here, download {url} elsewhere and put it at {target}."


def _metadata(hub, repo, url, by_hand):
    """What the Hub says about a file. Raises WeightsError, and hub.errors.EntryNotFoundError if there is no such file."""
    told = os.environ.get("HF_HUB_OFFLINE", "").upper() in hub.constants.ENV_VARS_TRUE_VALUES
    if hub.constants.HF_HUB_OFFLINE or told:
        raise WeightsError(
            f"HF_HUB_OFFLINE=1 asks for no connection to the Hub, and {repo} is not here.{by_hand}"
        )
    files.require_network(hub.constants.ENDPOINT, by_hand, any_answer=True)
    try:
        about = hub.get_hf_file_metadata(url, timeout=network.PROBE_SECONDS)
    except hub.errors.EntryNotFoundError:
        raise
    except Exception as error:  # its HTTP library has its own errors
        raise WeightsError(f"{_refusal(hub, repo, url, error)}.{by_hand}") from error
    if not about.etag or not about.commit_hash:
        raise WeightsError(
            f"what answers at {url} is not the Hugging Face Hub: it does not say which version of the file it has. If your network "
            f"asks for a login, its page came instead: open any page in a browser, and log in there. If HF_ENDPOINT is set, check it.{by_hand}"
        )
    return about


def _refusal(hub, repo, url, error):
    """Why the Hub did not answer, and what to do about it, without the last full stop."""
    answer = getattr(error, "response", None)
    if answer is None:
        return network.unreachable(url, error)
    code, page = answer.status_code, f"{hub.constants.ENDPOINT}/{repo}"
    has_token = bool(hub.get_token())
    if isinstance(error, hub.errors.GatedRepoError):
        if code == 401 or not has_token:
            return f"{repo} is gated: its publisher hands it out to those who asked. Ask for it at {page}, then {LOGIN}"
        return f"{repo} is gated, and your account has not been let in. Ask for it at {page}, with the account of your token"
    if isinstance(error, hub.errors.DisabledRepoError):
        return f"the Hub has disabled {repo}. Take other weights"
    if isinstance(error, hub.errors.RepositoryNotFoundError):
        if has_token:
            return f"the Hub has no repository {repo} that your token may read. Check the name and the token"
        return f"the Hub has no public repository {repo}. Check the name. If it is private, {LOGIN}"
    if code == 401 and has_token:
        return f"{url} answers 401: your token is not accepted. It may have expired: {LOGIN} to a new one"
    if code in (401, 403):
        why = (
            "your token does not allow it"
            if has_token
            else "it is private or gated, or your network is not let in"
        )
        return f"{url} answers {code}: {why}. Look at {page}, and {LOGIN}"
    if code in (405, 501):
        return (
            f"{url} answers {code}: the server refuses HEAD, the question with which each download begins. If HF_ENDPOINT is set, "
            "it is not a Hub. Otherwise a proxy of your network forbids it: try another network"
        )
    if code == 404:
        return f"{url} answers 404: there is no {repo} at {hub.constants.ENDPOINT}. Check the name, and HF_ENDPOINT if it is set"
    return network.answered(url, code, answer.headers).rstrip(".")
