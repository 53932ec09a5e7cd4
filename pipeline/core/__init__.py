"""Stages, chains, and the checks around every stage."""
