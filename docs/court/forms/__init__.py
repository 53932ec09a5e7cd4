"""The forms in which a module of this library is judged: in a lower precision, and after export."""
