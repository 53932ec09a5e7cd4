"""The laws that every part obeys, as functions: for our tests, and for those of plugin authors.

A law takes a function that makes a part, a new one at every call, and raises `LawBrokenError` if the part breaks it.
So all the tests that a part needs are:

    @pytest.mark.parametrize("law", ENCODER_LAWS)
    def test_obeys_the_laws(law: Law[MyEncoder]) -> None:
        law(lambda: MyEncoder(3, 4))
"""

from pipeline.laws.attentions import ATTENTION_LAWS as ATTENTION_LAWS
from pipeline.laws.attentions import check_attention as check_attention
from pipeline.laws.encoders import ENCODER_LAWS as ENCODER_LAWS
from pipeline.laws.encoders import check_encoder as check_encoder
from pipeline.laws.law import Law as Law
from pipeline.laws.law import LawBrokenError as LawBrokenError
from pipeline.laws.modules import MODULE_LAWS as MODULE_LAWS
from pipeline.laws.modules import check_module as check_module
from pipeline.laws.oracle import decoding_is_inverse as decoding_is_inverse
from pipeline.laws.oracle import equals_oracle as equals_oracle
from pipeline.laws.oracle import packing_is_inverse as packing_is_inverse
from pipeline.laws.pools import POOL_LAWS as POOL_LAWS
from pipeline.laws.pools import check_pool as check_pool
from pipeline.laws.run import Part as Part
from pipeline.laws.run import PlainModule as PlainModule
from pipeline.laws.run import attended as attended
from pipeline.laws.run import encoded as encoded
from pipeline.laws.run import pooled as pooled
from pipeline.laws.samples import Rows as Rows
from pipeline.laws.samples import padded as padded
from pipeline.laws.tokenizers import TOKENIZER_LAWS as TOKENIZER_LAWS
from pipeline.laws.tokenizers import check_tokenizer as check_tokenizer
