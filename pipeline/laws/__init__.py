"""Laws: properties of every part of a kind, as executable checks. `pipeline.testing` exports them."""
