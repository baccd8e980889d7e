"""Find out within seconds whether a server answers, so that nothing hangs on a dead network."""

import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request

from vit_edu import settings
from vit_edu.data.sets import DataError

PROBE_SECONDS = 4  # how long a network may take to answer before we go on without it
STALL_SECONDS = 15  # how long a running download may stand still
REMEMBER_SECONDS = 60  # how long we believe that a dead network is still dead

# url -> (what is wrong and what to do about it, or "" if it answers; when it was asked). Kept so that the many who ask do not
# all wait for a dead network
problems = {}


def require_network(url, otherwise="", again=False, any_answer=False):
    """Raise DataError unless `url` answers within PROBE_SECONDS, which include looking up its name.

    otherwise: what else a person can do, as in "set ...", for the error's text. again: ask again if it did not answer before.
    any_answer: an answer that is an error will do, because another address of that server is asked next.
    """
    try:
        allowed = settings.network()
    except settings.SettingError as error:
        raise DataError(str(error)) from error
    if not allowed:
        instead = f"Allow them, or {otherwise}." if otherwise else ""
        raise DataError(f"VIT_EDU_NETWORK=off forbids all connections. {instead}".strip())
    problem, asked = problems.get(url, ("", None))
    if asked is None or (problem and (again or time.monotonic() - asked > REMEMBER_SECONDS)):
        problem = _problem(url)
        problems[url] = problem, time.monotonic()
        if problem.startswith(f"{url} answers"):  # asking again takes no time, and the remedy may have helped
            del problems[url]
            problem = "" if any_answer else problem
    if problem:
        raise DataError(f"{problem}, or {otherwise}." if otherwise else f"{problem}.")


def _problem(url):
    """What keeps `url` from being read and what to do about it, without the last full stop, or "" if it can be read."""
    found = []
    # In a thread, because looking up a name has no time limit of its own
    thread = threading.Thread(target=lambda: found.append(_probe(url)), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    silent = f"{url} cannot be reached (no answer within {PROBE_SECONDS} seconds). Connect to a network"
    return (found or [silent])[0]


def _probe(url):
    try:
        try:
            _ask(url, "HEAD")
        except urllib.error.HTTPError as error:
            if error.code in (429, 503):  # it has too much to do as it is
                raise
            # Some servers and signed addresses refuse HEAD alone. The body of the answer is not read
            _ask(url, "GET")
    except urllib.error.HTTPError as error:
        return answered(url, error.code, error.headers).rstrip(".")
    except (ValueError, http.client.InvalidURL) as error:
        return _no_address(url, error)
    except http.client.HTTPException as error:
        return f"{url} cannot be read: what answers there does not speak HTTP ({type(error).__name__}). Check the address"
    except OSError as error:
        reason = getattr(error, "reason", error)
        is_address = not (type(error) is urllib.error.URLError and isinstance(reason, str))
        return unreachable(url, error) if is_address else _no_address(url, reason)
    return ""


def _ask(url, method):
    request = urllib.request.Request(url, method=method, headers={"User-Agent": "vit_edu"})
    urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()


def _no_address(url, reason):
    return f"{url} is not an address that can be asked ({reason}). Check how it is spelt"


def unreachable(url, error, seconds=PROBE_SECONDS):
    """What kept a connection from coming about and what to do about it, without the last full stop.

    error: of any HTTP library, which holds that of the operating system or of TLS inside. seconds: how long was waited.
    """
    reason = _innermost(error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"{url} was reached, but its certificate is not trusted ({reason.verify_message}). Check the clock of this "
            "machine. If your network inspects connections, ask for its certificate and set SSL_CERT_FILE to that file"
        )
    if isinstance(reason, ssl.SSLError):
        return f"{url} was reached, but no secure connection came about ({reason.reason or reason}). Try another network"
    if "Tunnel connection failed" in str(reason):
        return (
            f"{url} cannot be reached, because the proxy of your network refuses ({reason}). Check HTTPS_PROXY, with its name and "
            "password, or try another network"
        )
    if not isinstance(reason, OSError):
        return f"{url} could not be asked ({type(reason).__name__}: {reason})"
    if isinstance(reason, TimeoutError):
        reason = f"no answer within {seconds} seconds"
    return f"{url} cannot be reached ({reason}). Connect to a network"


def _innermost(error):
    """The error of the operating system or of TLS inside `error`, or `error` itself if there is none."""
    found, inner = error, error
    while inner is not None and not isinstance(found, (ssl.SSLError, TimeoutError)):
        if isinstance(inner, OSError) and not isinstance(inner, urllib.error.URLError):
            found = inner
        reason = getattr(inner, "reason", None)
        inner = reason if isinstance(reason, BaseException) else inner.__cause__ or inner.__context__
    return found


ANSWERS = {  # HTTP status -> what it means, and what to do
    401: "a name and a password, or a token, are asked for. Log in, or give the token",
    403: "you are not allowed to read it, or your network is not. Log in, or try another network",
    404: "nothing is at that address. It may have moved: update the course",
    407: "the proxy of your network asks for a name and a password. Put them into HTTPS_PROXY",
    410: "it was removed. Update the course",
    429: "there were too many requests from your network. Wait for some minutes, and try again",
    451: "it is withheld for legal reasons. Try another network",
    503: "the server is out of service or overloaded. Try again later",
}


def answered(url, code, headers=None):
    """A sentence for an HTTP answer that is an error, with what to do. code: its status. headers: of the answer."""
    wait = (headers or {}).get("Retry-After") or ""
    if code in ANSWERS:
        meaning = ANSWERS[code]
    elif code >= 500:
        meaning = "the server is out of order. Try again later"
    else:
        meaning = "the server does not hand it out. Try again later"
    if wait:
        meaning = f"{meaning.partition('. ')[0]}. Try again {f'in {wait} seconds' if wait.isdigit() else f'after {wait}'}"
    return f"{url} answers {code} {http.client.responses.get(code, '')}".rstrip() + f": {meaning}."
