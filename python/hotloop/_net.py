"""Connections and servers of the event loop."""


class NetMixin:
    """What a loop does with stream sockets; a base of LoopBase."""
