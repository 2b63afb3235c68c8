"""The sock_* coroutines of the event loop."""


class SockMixin:
    """What a loop does with sockets that it does not own; a base of LoopBase."""
