"""The libraries that are judged, one per module. Each imports its library in `list_cases`."""
