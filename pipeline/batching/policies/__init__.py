"""The policies that come with the library, one family a file."""
