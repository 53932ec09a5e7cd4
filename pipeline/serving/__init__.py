"""Answer requests over HTTP with a pipe: `make_app` for any server of ASGI, `serve` for one call."""

from pipeline.serving.app import App, make_app
from pipeline.serving.limits import Limits, ServeOptions
from pipeline.serving.server import serve

__all__ = ["App", "Limits", "ServeOptions", "make_app", "serve"]
