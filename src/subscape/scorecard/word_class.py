"""The class of the word that a token belongs to, by closed lists, endings and capitals: no tagger to install."""

from __future__ import annotations

from collections.abc import Sequence

CLOSED = {
    "determiner": "a an the this that these those every each some any no another all both",
    "pronoun": "i you he she it we they me him her us them his its my your our their mine yours hers "
    "who what which one everyone someone something nothing everything himself herself",
    "preposition": "in on at to from with by of for into onto over under up down out off through around "
    "near behind after before about like until inside outside between against",
    "conjunction": "and or but so because if when while as than then",
    "auxiliary": "is was were are be been am do does did done have has had will would can could should "
    "must may might not n't",
}
CLASS_OF = {word: name for name, words in CLOSED.items() for word in words.split()}


def word_class(word: str, after_stop: bool) -> str:
    """The class of a word; `after_stop` says that a capital is that of a sentence."""
    bare = word.strip()
    lower = bare.lower()
    if not bare:
        return "space"
    if not any(c.isalnum() for c in bare):
        return "quotation mark" if set(bare) <= set("\"'“”‘’") else f"punctuation {bare[0]}"
    if lower in CLASS_OF:
        return CLASS_OF[lower]
    if bare[0].isdigit():
        return "number"
    if bare[0].isupper() and not after_stop:
        return "name"
    for ending, name in (("ly", "adverb"), ("ing", "-ing form"), ("ed", "past form")):
        if lower.endswith(ending) and len(lower) > len(ending) + 2:
            return name
    return f"word {lower}"  # of no class: only with itself


def word_classes(texts: Sequence[str]) -> list[str]:
    """The class of the word that each token of a window belongs to."""
    words: list[list[int]] = []
    for i, text in enumerate(texts):
        starts = text.startswith((" ", "\n", "<")) or not text.strip(" ").isalnum()
        previous = texts[i - 1] if i else ""
        if starts or not words or not previous.strip(" ").isalnum():
            words.append([])
        words[-1].append(i)
    classes = [""] * len(texts)
    stop = True
    for places in words:
        word = "".join(texts[i] for i in places)
        name = word_class(word, stop)
        for i in places:
            classes[i] = name
        if word.strip():
            stop = word.strip()[-1] in '.!?"”“\n>'
    return classes
