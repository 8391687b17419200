"""Object store URLs: `s3://bucket/prefix?endpoint=…&region=…`, `gs://…`, `az://…`, `file:///path`, `memory:`."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from s3stream.errors import BadSetting

_OPTIONS = {
    "s3": ("endpoint", "region", "client", "addressing", "payload", "checksum"),
    "gs": (),
    "az": ("account", "endpoint"),
    "file": (),
    "memory": (),
}
_CHOICES = {
    "client": ("obstore", "aioboto3"),
    "addressing": ("path", "virtual"),
    "payload": ("signed", "unsigned"),
    "checksum": ("none", "sha256", "crc64nvme"),
}
EXAMPLES = "s3://bucket/prefix?endpoint=…&region=…, gs://bucket/prefix, az://container/prefix, file:///path, memory:"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    text: str
    """As given: for messages. Holds no secrets; the parser refuses a URL with credentials in it."""
    scheme: str
    bucket: str = ""
    prefix: str = ""
    """No slash at either end. For file: the path, absolute."""
    options: dict[str, str] = field(default_factory=dict)


def parse_store_url(text: str) -> StoreUrl:
    """Raises BadSetting, naming what is wrong and what would be right."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise _bad(text, str(error)) from None
    if parts.scheme not in _OPTIONS:
        raise _bad(text, f"unknown scheme {parts.scheme!r}" if parts.scheme else "it has no scheme")
    if parts.username is not None or parts.password is not None:
        raise BadSetting("object store URL: credentials do not belong into it; set AWS_ACCESS_KEY_ID and the like")
    if parts.fragment:
        raise _bad(text, f"a fragment (#{parts.fragment}) means nothing here")
    options = _options(text, parts)
    if parts.scheme == "memory":
        if parts.netloc or parts.path:
            raise _bad(text, "memory: takes no path")
        return StoreUrl(text, "memory")
    if parts.scheme == "file":
        path = unquote(parts.path)
        if parts.netloc not in ("", "localhost") or not path.startswith("/") or path == "/":
            raise _bad(text, "file: takes an absolute path, with three slashes: file:///path")
        return StoreUrl(text, "file", prefix=path.rstrip("/"))
    if not parts.hostname or parts.netloc != parts.netloc.split(":")[0]:
        raise _bad(text, "a bucket name has to follow the scheme" + (" (without a port)" if parts.netloc else ""))
    prefix = unquote(parts.path).strip("/")
    if any(segment in ("", ".", "..") for segment in prefix.split("/")) and prefix:
        raise _bad(text, f"the prefix {prefix!r} has an empty or relative segment")
    return StoreUrl(text, parts.scheme, parts.netloc, prefix, options)


def _options(text: str, parts: SplitResult) -> dict[str, str]:
    known = _OPTIONS[parts.scheme]
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            what = f"known options of {parts.scheme}: are {', '.join(known)}" if known else "it takes none"
            raise _bad(text, f"unknown option {name!r}; {what}")
        if name in options:
            raise _bad(text, f"option {name!r} is given twice")
        choices = _CHOICES.get(name)
        if choices is not None and value not in choices:
            raise _bad(text, f"{name} is {value!r}, not one of {', '.join(choices)}")
        if name == "endpoint" and urlsplit(value).scheme not in ("http", "https"):
            raise _bad(text, f"endpoint is {value!r}, not an http:// or https:// URL")
        if not value:
            raise _bad(text, f"option {name!r} is empty")
        options[name] = value
    return options


def _bad(text: str, problem: str) -> BadSetting:
    return BadSetting(f"object store URL {text!r}: {problem}. Such a URL looks like one of: {EXAMPLES}")
