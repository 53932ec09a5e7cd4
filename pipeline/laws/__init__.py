"""The laws: properties that every part of a kind must have, as executable checks."""
