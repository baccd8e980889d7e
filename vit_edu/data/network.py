"""Find out within seconds whether a server answers, so that nothing hangs on a dead network."""

import threading
import urllib.request

from vit_edu import settings
from vit_edu.data.sets import DataError

PROBE_SECONDS = 4  # how long a network may take to answer before we go on without it
STALL_SECONDS = 15  # how long a running download may stand still

# url -> why it cannot be reached, or "" if it can. Asked once per process, so that we wait only once for a dead network
problems = {}


def require_network(url, otherwise="", again=False):
    """Raise DataError unless `url` answers within PROBE_SECONDS, which include looking up its name.

    otherwise: what else a person can do, as in "set ...", for the error's text. again: ask again if it did not answer before.
    """
    if not settings.network():
        instead = f"Allow them, or {otherwise}." if otherwise else ""
        raise DataError(f"VIT_EDU_NETWORK=off forbids all connections. {instead}".strip())
    if again and problems.get(url):
        del problems[url]
    if url not in problems:
        # In a thread, because looking up a name has no time limit of its own
        thread = threading.Thread(target=_probe, args=(url,), daemon=True)
        thread.start()
        thread.join(PROBE_SECONDS + 1)
        problems.setdefault(url, f"no answer within {PROBE_SECONDS} seconds")
    if problems[url]:
        instead = f", or {otherwise}" if otherwise else ""
        raise DataError(f"{url} cannot be reached ({problems[url]}). Connect to a network{instead}.")


def _probe(url):
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "vit_edu"})
    try:
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        problems[url] = ""
    except (OSError, ValueError) as error:
        problems[url] = str(getattr(error, "reason", error))
