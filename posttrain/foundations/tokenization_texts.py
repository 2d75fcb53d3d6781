"""Texts that a tokenizer should be tried on: code, many languages, and traps.

Nothing here is downloaded. The code is Python's own library, the messages in many
languages are those of Sphinx, the program that builds this book.
"""

from __future__ import annotations

import importlib.util
import random
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Article 1 of the Universal Declaration of Human Rights, first sentence, as published
# by the United Nations in each language.
DECLARATION = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "French": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits."
    ),
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Greek": (
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα"
        " δικαιώματα."
    ),
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "Hindi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।"
    ),
    "Chinese": "人人生而自由,在尊严和权利上一律平等。",
    "Japanese": (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
    ),
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}

# What breaks tokenizers: scripts side by side, marks that combine, emoji of several
# code points, text from right to left, white space of all kinds, numbers, code.
TRICKY = (
    *DECLARATION.values(),
    "English, русский, 中文 and العربية in one line",
    "e\u0301 is not \u00e9; ﬁ is not fi; ①② ½ ٣ Ⅻ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇪🇺 👍🏽 ok🙂ok",
    "I'll, you've, WE'RE, it's '70s; don’t",
    "1234567890 3.14 1,000,000 0x1F 2026-11-21",
    "def f(x):\n    return {k: v for k, v in x.items() if k != 'a'}\n\n\n",
    "\tif (a<b) {\r\n\t\treturn a&&b;\t\r\n}\n",
    "  two  three   spaces    \n \n  \n",
    "\u00a0no-break\u2003em\u200bzero-width\u3000wide\ufeff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x" * 300 + " " * 50 + "." * 60,
    "null\x00 bell\x07 escape\x1b[0m",
    "<|endoftext|> and <|pad|> as plain text",
    "",
    " ",
    "\n",
)

LANGUAGES = {  # of the messages: folder name -> language
    "fr": "French",
    "es": "Spanish",
    "ru": "Russian",
    "el": "Greek",
    "hi": "Hindi",
    "ko": "Korean",
    "ja": "Japanese",
    "zh_CN": "Chinese",
}


def python_source(characters: int, seed: int = 0) -> list[str]:
    """Files of Python's own library, in an order drawn by `seed`, one string a file.

    As many as needed to reach so many characters; the last is cut there.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(folder.glob("*.py"))
    random.Random(seed).shuffle(paths)
    files, left = [], characters
    for path in paths:
        if left <= 0:
            break
        files.append(path.read_text(encoding="utf-8", errors="replace")[:left])
        left -= len(files[-1])
    return files


@dataclass(frozen=True)
class Messages:
    """What Sphinx says in English and in other languages.

    own: language -> its messages that are not translated into all others.
    shared: {language: text} of each message that all languages have: parallel texts.
    """

    own: dict[str, list[str]]
    shared: list[dict[str, str]]


def messages(languages: Mapping[str, str] = LANGUAGES) -> Messages | None:
    """The messages of the installed Sphinx (BSD licence), None where there is none.

    languages: folder of a catalogue -> language, beside English.
    """
    found = importlib.util.find_spec("sphinx")
    if found is None or found.origin is None:
        return None
    from babel.messages.mofile import read_mo  # Babel comes with Sphinx

    catalogues = {}
    for folder, language in languages.items():
        path = Path(found.origin).parent / f"locale/{folder}/LC_MESSAGES/sphinx.mo"
        with path.open("rb") as file:
            texts = {m.id: m.string for m in read_mo(file) if isinstance(m.id, str)}
        catalogues[language] = {i: t for i, t in texts.items() if i and t and t != i}
    shared = sorted(set.intersection(*(set(texts) for texts in catalogues.values())))
    kept = set(shared)
    english = sorted(set.union(*(set(texts) for texts in catalogues.values())))
    catalogues = {"English": {text: text for text in english}} | catalogues
    return Messages(
        {
            language: [text for i, text in texts.items() if i not in kept]
            for language, texts in catalogues.items()
        },
        [{language: c[i] for language, c in catalogues.items()} for i in shared],
    )
