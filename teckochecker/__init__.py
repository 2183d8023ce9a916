"""TeckoChecker waits for work that runs elsewhere, and triggers what must come next."""

__version__ = "1.0.0"
