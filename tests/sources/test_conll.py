"""Sentences in CoNLL-U, CoNLL-U Plus and the format of CoNLL-2003."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OptionError, RecordError
from pipeline.sources import Conll2003, Conllu
from support.pairs import to_pairs
from support.source_files import sentences, write, write_word

pytestmark = pytest.mark.usefixtures("storage")


def test_any_column_may_be_the_target(tmp_path: Path) -> None:
    """Heads are numbers; `_` is text in forms and lemmas, and no target elsewhere."""
    word = write_word(1, "_", head="2").replace("\n", "\r\n")
    file = write(tmp_path / "a", f"# text = x\r\n{word}{write_word(2, 'b')}".encode())
    assert to_pairs(Conllu(file, target="head")) == [(["_", "b"], [2, 0])]
    assert to_pairs(Conllu(file, target=None)) == [(["_", "b"], None)]
    assert to_pairs(Conllu(file, target="form")) == [(["_", "b"], ["_", "b"])]
    assert to_pairs(Conllu(file, target="feats")) == [(["_", "b"], [None, None])]
    assert to_pairs(Conllu(file, words="lemma", target="deprel")) == [(["_", "_"], ["dep", "dep"])]
    bad = write(tmp_path / "b", write_word(1, head="7").encode())
    with pytest.raises(RecordError, match="a head must be the number of a word, 1 to 1, or 0, got '7'"):
        Conllu(bad, target="head")[0]


def test_errors_name_the_sentence(tmp_path: Path) -> None:
    """By its line and the name in its comment."""
    message = r"a\.conllu, line 9 \(sent_id = s3\): words must be numbered from 1, but line 3 of the sentence, word 2"
    with pytest.raises(RecordError, match=message):
        sentences(tmp_path)[2]
    with pytest.raises(
        RecordError, match="a word must have 10 tab-separated columns, but line 1 of the sentence has 2"
    ):
        sentences(tmp_path)[1]


def test_conllu_plus(tmp_path: Path) -> None:
    """The first line names the columns; without ids, each line is a word."""
    plus = "# global.columns = ID FORM PARSEME:MWE UPOS\n"
    file = write(tmp_path / "a", f"{plus}# sent_id = 1\n1-2\tim\t*\t_\n1\tin\t1:LVC\tADP\n2\tdem\t_\tDET\n\n".encode())
    assert to_pairs(Conllu(file)) == [(["in", "dem"], ["ADP", "DET"])]
    assert to_pairs(Conllu(file, target="parseme:mwe")) == to_pairs(Conllu(file, target="PARSEME:MWE"))
    assert to_pairs(Conllu(file, target="parseme:mwe")) == [(["in", "dem"], ["1:LVC", None])]
    alone = write(tmp_path / "b", b"# global.columns = FORM NER\n\nto\tO\nUlm\tLOC\n")
    source = Conllu(alone, target="ner")
    assert to_pairs(source) == to_pairs([source[0]]) == [(["to", "Ulm"], ["O", "LOC"])]
    assert source.where(0) == f"{alone}, line 3"
    with pytest.raises(OptionError, match=r"target must be a column of .*b, 'form', 'ner', got 'upos'"):
        Conllu(alone)
    with pytest.raises(OptionError, match=r"words must be a column of .*, 'form', 'ner', got 'lemma'"):
        Conllu(alone, words="lemma", target="ner")


def test_conll_2003(tmp_path: Path) -> None:
    """Columns are separated by white space, sentences by blank lines; lines between documents are left out."""
    content = (
        b"-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n \n"
        b"-DOCSTART- -X- -X- O\nToo few\n\nPeter\tNNP B-NP B-PER"
    )
    file = write(tmp_path / "eng.train", content)
    source = Conll2003(file, on_bad_record="skip")
    assert to_pairs(source) == [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]
    assert to_pairs(source) == to_pairs(source[number] for number in range(2))
    assert source.skipped.kinds == {"columns": 1}
    assert [source.where(0), source.where(1)] == [f"{file}, line 3", f"{file}, line 10"]
    assert source.skipped.first[0].number == 7
    with pytest.raises(RecordError, match="a word must have 4 columns, but line 2 of the sentence has 2"):
        Conll2003(file)[1]
    assert Conll2003(file, target="pos")[0].target == ["NNP", "VBZ"]
    assert Conll2003(file, target=None)[0].target is None
    words = Conll2003(write(tmp_path / "b", b"O to\nLOC Ulm\n"), columns=("ner", "form"))
    assert to_pairs(words) == [(["to", "Ulm"], ["O", "LOC"])]


WRONG: Any = "wrong"


def test_wrong_options_are_rejected(tmp_path: Path) -> None:
    """The error names the columns."""
    file = write(tmp_path / "a", b"")
    with pytest.raises(OptionError, match="target must be a column of .*, 'form', 'lemma', .*, got 'wrong'"):
        Conllu(file, target="wrong")
    with pytest.raises(OptionError, match="got 'id'"):
        Conllu(file, target="id")
    with pytest.raises(OptionError, match="words must be one of form, lemma, got 'wrong'"):
        Conllu(file, words=WRONG)
    with pytest.raises(OptionError, match="target must be one of form, pos, chunk, ner, got 'upos'"):
        Conll2003(file, target="upos")
    with pytest.raises(OptionError, match='columns must have a column "form", the words, got'):
        Conll2003(file, columns=["word", "ner"])


def test_other_white_space_is_part_of_a_word(tmp_path: Path) -> None:
    """Such as a no-break space: only spaces and tabs separate columns, and only empty lines sentences."""
    text = "10\u00a0000 O\n\u3000\tO\n\u0085 O\n"
    file = write(tmp_path / "a.conll", text.encode())
    words, tags = ["10\u00a0000", "\u3000", "\u0085"], ["O", "O", "O"]
    assert to_pairs(Conll2003(file, columns=("form", "ner"))) == [(words, tags)]
    file = write(tmp_path / "a.conllu", (write_word(1) + "\u00a0\n" + write_word(2)).encode())
    with pytest.raises(
        RecordError, match="a word must have 10 tab-separated columns, but line 2 of the sentence has 1"
    ):
        list(Conllu(file))


def test_a_column_must_not_be_empty(tmp_path: Path) -> None:
    """It would be an empty word, or a class without a name."""
    for word in (write_word(1, form=""), write_word(1, upos="")):
        with pytest.raises(
            RecordError, match=r"a column must not be empty, but column \d of line 1 of the sentence is"
        ):
            list(Conllu(write(tmp_path / "a.conllu", word.encode())))


def test_several_columns_as_targets_are_rejected(tmp_path: Path) -> None:
    """Other sources read them; the error says what to do here."""
    several: Any = ["upos", "feats"]
    with pytest.raises(OptionError, match="target must be the name of one column, got"):
        Conllu(write(tmp_path / "a", write_word(1).encode()), target=several)
