"""Text as TeX takes it, with plain pdflatex and no package: every special sign written out, long words given leave to break."""

import re
import unicodedata

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_\allowbreak{}",
    "/": r"/\allowbreak{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    '"': "''",
    "`": r"{\`{}}",
    "–": "--",
    "—": "---",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "ß": r"{\ss}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "œ": r"{\oe}",
    "Œ": r"{\OE}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
    "å": r"{\aa}",
    "Å": r"{\AA}",
    "ł": r"{\l}",
    "Ł": r"{\L}",
    "ı": r"{\i}",
    "§": r"{\S}",
    "©": r"{\copyright}",
}
MATHEMATICS = {
    "−": "-",
    "±": r"\pm",
    "×": r"\times",
    "÷": r"\div",
    "·": r"\cdot",
    "•": r"\bullet",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "≈": r"\approx",
    "∼": r"\sim",
    "∝": r"\propto",
    "∞": r"\infty",
    "→": r"\rightarrow",
    "←": r"\leftarrow",
    "↔": r"\leftrightarrow",
    "⇒": r"\Rightarrow",
    "↦": r"\mapsto",
    "∂": r"\partial",
    "∑": r"\sum",
    "∏": r"\prod",
    "√": r"\surd",
    "∈": r"\in",
    "⊗": r"\otimes",
    "⊕": r"\oplus",
    "°": r"^{\circ}",
    "µ": r"\mu",
    "ᵀ": r"^{\mathsf{T}}",
    "½": r"\frac{1}{2}",
    "ℝ": r"\mathrm{R}",
}
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta", "κ": "kappa",
    "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "ϕ": "phi", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi",
    "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u030b": "H",
}
LONGEST_WORD = 48


def escape(text: str) -> str:
    """The text with nothing in it that TeX would act on; a sign that plain TeX has not is written by its number: [U+65E5].

    Words of more than 48 signs are cut in the middle, runs of hyphens stay hyphens: escape("5% of a_b") is r"5\\% of a\\_\\allowbreak{}b".
    """
    words = re.split(r"(\s+)", text)
    return "".join(" " if word.isspace() else escape_word(cut(word)) for word in words)


def opening(text: str) -> str:
    r"""Escaped text to stand after \\, \midrule or \item, which would take a bracket or a star at its start for their own."""
    return "{}" + text if text.lstrip().startswith(("[", "*")) else text


def cut(word: str) -> str:
    """The word, its middle left out where it is too long for a line."""
    half = LONGEST_WORD // 2
    return word if len(word) <= LONGEST_WORD else f"{word[: half - 1]}…{word[-half:]}"


def escape_word(word: str) -> str:
    """The signs of a word one by one; signs that TeX would join (-- and ,,) are kept apart."""
    return re.sub(r"(?<=[-,])(?=[-,])", "{}", "".join(sign_text(sign) for sign in word)) if apart(word) else "".join(map(sign_text, word))


def apart(word: str) -> bool:
    """Whether the word has two signs in a row that TeX makes one of."""
    return "--" in word or ",," in word


def sign_text(sign: str) -> str:
    """One sign."""
    if sign in SPECIAL:
        return SPECIAL[sign]
    if sign.isascii() and sign.isprintable():
        return sign
    if sign in MATHEMATICS or sign in GREEK:
        return rf"\ensuremath{{{MATHEMATICS.get(sign) or chr(92) + GREEK[sign]}}}"
    return composed(sign) or f"[U+{ord(sign):04X}]"


def composed(sign: str) -> str:
    """A letter with an accent, or a raised or lowered digit; '' where it is neither."""
    base, *marks = unicodedata.normalize("NFD", sign)
    if len(marks) == 1 and marks[0] in ACCENTS and base.isascii() and base.isalpha():
        return rf"\{ACCENTS[marks[0]]}{{{base}}}"
    kind, _, plain = unicodedata.decomposition(sign).partition(" ")
    if kind in ("<super>", "<sub>") and len(plain) == 4 and (inner := chr(int(plain, 16))).isascii():
        return rf"\ensuremath{{{'^' if kind == '<super>' else '_'}{{\mathrm{{{inner}}}}}}}"
    return ""


def marked(text: str) -> str:
    """The text escaped, with what stands between backticks in typewriter type."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(rf"\texttt{{{escape(part)}}}" if index % 2 else escape(part) for index, part in enumerate(parts))
