"""Taking secrets out of text that people are shown: log tails and messages."""

import re

HIDDEN = "***"

_TOKENIZERS_OWN = r"[\w-]*(?:eos|bos|pad|unk|sep|cls|mask)_token"
_NAMES = r"token|secret|passw(?:or)?d|pwd|api[_-]?key|access[_-]?key|credentials?|signature|sig"
_VALUE = r"\"[^\"\n]+\"|'[^'\n]+'|[^\s\"',;&)}\]]+"

# Values that give themselves away by their form; then the places where a secret is expected.
_RULES = [
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-)[\w-]{16,}"), HIDDEN),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), HIDDEN),
    (re.compile(r"(?i)(\bbearer\s+|\bauthorization\W+basic\s+)[\w.~+/=-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"://[^/\s@\"']+@"), f"://{HIDDEN}@"),
    (
        re.compile(
            rf"(?i)(?<![\w-])(?!{_TOKENIZERS_OWN})([\w-]*(?:{_NAMES})[\"']?\s*[=:]\s*)({_VALUE})"
        ),
        rf"\1{HIDDEN}",
    ),
]


def scrub(text: str) -> str:
    """`text` with everything that looks like a token, key or password replaced by `***`."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
