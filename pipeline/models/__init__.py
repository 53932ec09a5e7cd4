"""Whole models, composed of stages: classifiers, a matcher of pairs, two taggers and a language model."""

from pipeline.models.character_tagger import character_tagger
from pipeline.models.classifier import classifier
from pipeline.models.document_classifier import document_classifier
from pipeline.models.language_model import language_model
from pipeline.models.matcher import matcher
from pipeline.models.tagger import tagger

__all__ = ["character_tagger", "classifier", "document_classifier", "language_model", "matcher", "tagger"]
