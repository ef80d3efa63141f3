"""Every error a caller can see, with its HTTP status and its place in OpenAI's error shape.

    CallgateError
    ├── BadRequest 400                 what the caller sent cannot be used
    │   ├── TooLarge 413   WrongMediaType 415   WrongMethod 405   NotFound 404   ModelNotFound 404
    │   ├── RequestTimeout 408   HeadTooLarge 431
    │   └── ContentBlocked 400         a rail decided against the request
    ├── Unauthenticated 401   Forbidden 403
    ├── RateLimited 429                this gateway's own limits
    ├── Overloaded 503   RailUnavailable 503   StoreUnavailable 503
    └── UpstreamError 502              what stands behind the gateway failed
        ├── UpstreamRateLimited 429   UpstreamRejected 400
        └── UpstreamUnavailable 502   UpstreamInvalid 502   UpstreamTimeout 504   UpstreamCut 502

A message says what was wrong and what would be right. It never carries a secret, a prompt, personal data or an upstream's own words.
It does not know HTTP frameworks; gateway/asgi.py puts these on the wire.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CallgateError(Exception):
    """Base of all errors that are shown to a caller."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code_now = code or self.code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The error as OpenAI clients expect it: ``{"error": {message, type, param, code}}``."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code_now}}

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Extra response headers: Retry-After in whole seconds (rounded up) and retry-after-ms."""
        if self.retry_after_s is None:
            return []
        whole_s = max(1, -int(-self.retry_after_s // 1))
        return [
            (b"retry-after", b"%d" % whole_s),
            (b"retry-after-ms", b"%d" % max(1, round(self.retry_after_s * 1000))),
        ]


class BadRequest(CallgateError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class TooLarge(BadRequest):
    status = 413
    code = "request_too_large"


class RequestTimeout(BadRequest):
    status = 408
    code = "request_timeout"


class HeadTooLarge(BadRequest):
    status = 431
    code = "request_head_too_large"


class WrongMediaType(BadRequest):
    status = 415
    code = "unsupported_media_type"


class WrongMethod(BadRequest):
    status = 405
    code = "method_not_allowed"


class NotFound(BadRequest):
    status = 404
    code = "not_found"


class ModelNotFound(BadRequest):
    status = 404
    code = "model_not_found"


class ContentBlocked(BadRequest):
    """A guardrail blocked the request. No upstream call was made."""

    code = "content_policy_violation"


class Unauthenticated(CallgateError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"www-authenticate", b"Bearer")]


class Forbidden(CallgateError):
    status = 403
    type = "permission_error"
    code = "permission_denied"


class RateLimited(CallgateError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Overloaded(CallgateError):
    status = 503
    type = "server_error"
    code = "overloaded"


class RailUnavailable(CallgateError):
    """A guardrail could not run and its policy fails closed."""

    status = 503
    type = "server_error"
    code = "guardrail_unavailable"


class StoreUnavailable(CallgateError):
    """The store of limits could not be reached and the settings fail closed."""

    status = 503
    type = "server_error"
    code = "limits_unavailable"


class UpstreamError(CallgateError):
    """``retryable``: another deployment may be tried, as long as no byte of the answer has left."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    retryable: ClassVar[bool] = True


class UpstreamRateLimited(UpstreamError):
    status = 429
    type = "rate_limit_error"
    code = "upstream_rate_limited"


class UpstreamBusy(UpstreamError):
    """Every place of a deployment with a cap is taken, and its queue is full."""

    status = 503
    type = "server_error"
    code = "upstream_busy"


class UpstreamRejected(UpstreamError):
    """The backend understood and refused: the same request would be refused again."""

    status = 400
    type = "invalid_request_error"
    code = "upstream_rejected"
    retryable = False


class UpstreamUnavailable(UpstreamError):
    code = "upstream_unavailable"


class UpstreamInvalid(UpstreamError):
    code = "upstream_invalid_response"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class UpstreamCut(UpstreamError):
    """The answer began and then stopped before its end."""

    code = "upstream_cut"
    retryable = False
