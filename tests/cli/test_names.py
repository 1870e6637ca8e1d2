import pytest

from subscape.cli.names import token_namer

TEXTS = {"▁once": "once", "on": "on", "<0xE2>": "\ufffd", "<0x80>": "\ufffd", "<0x0A>": "\n"}


class Tokenizer:
    def convert_ids_to_tokens(self, index: int) -> str | None:
        return list(TEXTS)[index] if index < len(TEXTS) else None

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(TEXTS.get(t, t) for t in tokens)


def test_bytes_of_longer_characters_keep_their_names():
    name = token_namer(Tokenizer())
    assert name is not None
    assert [name(i) for i in range(6)] == [" once", "on", "<0xE2>", "<0x80>", "\n", "<5>"]


def test_wordpieces_are_not_glued():
    transformers, tokenizers = map(pytest.importorskip, ("transformers", "tokenizers"))
    words = {w: i for i, w in enumerate(["[UNK]", "[PAD]", "play", "##ing", "the"])}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    pieces.decoder = tokenizers.decoders.WordPiece()
    name = token_namer(
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]"
        )
    )
    assert name is not None
    assert "".join(map(name, [4, 2, 3, 1])) == " the playing[PAD]"
