"""The laws that every part obeys, as functions, for the tests of plugins and of any `nn.Module`.

A law takes a function that creates a part, a new one at every call, and raises `LawBrokenError` if the part breaks it.
These are all the tests that a part needs:

    @pytest.mark.parametrize("law", ENCODER_LAWS)
    def test_obeys_the_laws(law: Law[MyEncoder]) -> None:
        law(lambda: MyEncoder(3, 4))
"""

from pipeline.laws.attentions import ATTENTION_LAWS, check_attention
from pipeline.laws.data import (
    METRIC_LAWS,
    POLICY_LAWS,
    SOURCE_LAWS,
    check_metric,
    check_policy,
    check_source,
)
from pipeline.laws.encoders import ENCODER_LAWS, check_encoder
from pipeline.laws.fault_report import FaultReport, report_fault
from pipeline.laws.law import Law, LawBrokenError
from pipeline.laws.modules import MODULE_LAWS, RAGGED_LAWS, ModuleOptions, check_module, ragged
from pipeline.laws.oracle import check_against_oracle, check_decoding_round_trip, check_packing_round_trip
from pipeline.laws.parts import (
    BatchFunction,
    PlainModule,
    RowTensors,
    adapt_attend,
    adapt_encoder,
    adapt_pool,
    make_batch,
)
from pipeline.laws.pools import POOL_LAWS, check_pool
from pipeline.laws.stages import HEAD_LAWS, STAGE_LAWS, check_head, check_stage
from pipeline.laws.tokenizers import TOKENIZER_LAWS, check_tokenizer

__all__ = [
    "ATTENTION_LAWS",
    "ENCODER_LAWS",
    "HEAD_LAWS",
    "METRIC_LAWS",
    "MODULE_LAWS",
    "POLICY_LAWS",
    "POOL_LAWS",
    "RAGGED_LAWS",
    "SOURCE_LAWS",
    "STAGE_LAWS",
    "TOKENIZER_LAWS",
    "BatchFunction",
    "FaultReport",
    "Law",
    "LawBrokenError",
    "ModuleOptions",
    "PlainModule",
    "RowTensors",
    "adapt_attend",
    "adapt_encoder",
    "adapt_pool",
    "check_against_oracle",
    "check_attention",
    "check_decoding_round_trip",
    "check_encoder",
    "check_head",
    "check_metric",
    "check_module",
    "check_packing_round_trip",
    "check_policy",
    "check_pool",
    "check_source",
    "check_stage",
    "check_tokenizer",
    "make_batch",
    "ragged",
    "report_fault",
]
