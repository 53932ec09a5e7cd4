"""A module that holds a mapping where a hook should be."""

from collections.abc import Mapping

from pipeline.hooks import PoolingFactory
from pipeline_attention import AttentionPool

pipeline_pools: Mapping[str, PoolingFactory] = {"attention": AttentionPool}
