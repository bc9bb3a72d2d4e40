"""Judges of sets of samples: what do they have in common, and are they fluent?"""

from mxd.evaluation.judging.cache import VerdictCache
from mxd.evaluation.judging.endpoint import EndpointJudge
from mxd.evaluation.judging.offline import OfflineJudge, reference_texts
from mxd.evaluation.judging.prompt import parse_answer
from mxd.evaluation.judging.verdict import Judge, JudgeStopped, Usage, Verdict

__all__ = [
    "EndpointJudge",
    "Judge",
    "JudgeStopped",
    "OfflineJudge",
    "Usage",
    "Verdict",
    "VerdictCache",
    "parse_answer",
    "reference_texts",
]
