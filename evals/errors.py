"""What can be wrong with what a person handed in; each message names the place and what would be right.

EvalError
+-- DatasetError      the cases
+-- SuiteError        suite.yaml
+-- LabelsError       human labels
+-- RecordError       a stored run or report that cannot be read, or was changed
+-- TargetError       nothing answers at the URL at all

A fault of one answer is no exception: it is an Answer with an error, or a Score that is not scored.
"""


class EvalError(Exception):
    """Anything that ends a run with exit code 3."""


class DatasetError(EvalError):
    pass


class SuiteError(EvalError):
    pass


class LabelsError(EvalError):
    pass


class RecordError(EvalError):
    pass


class TargetError(EvalError):
    pass
