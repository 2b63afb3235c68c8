"""Signal handlers of the event loop."""


class SignalsMixin:
    """What a loop does with Unix signals; a base of LoopBase."""

    def _close_signals(self) -> None:
        """Removes all handlers; called by close()."""
