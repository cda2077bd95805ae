"""What a service raises where a sound request has no answer; of no web framework, so that any layer may raise it."""


class NotAnsweredError(RuntimeError):
    """A sound request that could not be answered. `public` is what the client reads; the message goes to the log."""

    public = "the request could not be answered; see the service's log"
