"""The laws that every part obeys, as functions: for our tests, and for those of plugin authors.

A law takes a function that makes a part, a new one at every call, and raises `LawBrokenError` if the part breaks it.
So all the tests that a part needs are:

    @pytest.mark.parametrize("law", ENCODER_LAWS)
    def test_obeys_the_laws(law: Law[MyEncoder]) -> None:
        law(lambda: MyEncoder(3, 4))
"""

from pipeline.testing.attentions import ATTENTION_LAWS as ATTENTION_LAWS
from pipeline.testing.attentions import check_attention as check_attention
from pipeline.testing.encoders import ENCODER_LAWS as ENCODER_LAWS
from pipeline.testing.encoders import check_encoder as check_encoder
from pipeline.testing.law import Law as Law
from pipeline.testing.law import LawBrokenError as LawBrokenError
from pipeline.testing.modules import MODULE_LAWS as MODULE_LAWS
from pipeline.testing.modules import check_module as check_module
from pipeline.testing.oracle import decoding_is_inverse as decoding_is_inverse
from pipeline.testing.oracle import equals_oracle as equals_oracle
from pipeline.testing.oracle import packing_is_inverse as packing_is_inverse
from pipeline.testing.pools import POOL_LAWS as POOL_LAWS
from pipeline.testing.pools import check_pool as check_pool
from pipeline.testing.run import Part as Part
from pipeline.testing.run import PlainModule as PlainModule
from pipeline.testing.run import attended as attended
from pipeline.testing.run import encoded as encoded
from pipeline.testing.run import pooled as pooled
from pipeline.testing.samples import Rows as Rows
from pipeline.testing.samples import padded as padded
from pipeline.testing.tokenizers import TOKENIZER_LAWS as TOKENIZER_LAWS
from pipeline.testing.tokenizers import check_tokenizer as check_tokenizer
