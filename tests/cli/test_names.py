from subscape.cli.names import token_namer

TEXTS = {"▁once": "once", "on": "on", "<0xE2>": "\ufffd", "<0x80>": "\ufffd", "<0x0A>": "\n"}


class Tokenizer:
    def convert_ids_to_tokens(self, index: int) -> str | None:
        return list(TEXTS)[index] if index < len(TEXTS) else None

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(TEXTS[t] for t in tokens)


def test_bytes_of_longer_characters_keep_their_names():
    name = token_namer(Tokenizer())
    assert name is not None
    assert [name(i) for i in range(6)] == [" once", "on", "<0xE2>", "<0x80>", "\n", "<5>"]
