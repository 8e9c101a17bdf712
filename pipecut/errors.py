"""Every error that pipecut raises on purpose, with the exit code the command line gives it."""


class PipecutError(Exception):
    """Says what is wrong, where, and what to do."""

    exit_code = 1


class UserFileError(PipecutError):
    """A job, cluster or model file needs a fix."""

    exit_code = 2


class TraceError(PipecutError):
    """The model cannot be traced as it stands."""

    exit_code = 2


class InfeasibleError(PipecutError):
    """No plan exists within the limits."""

    exit_code = 3


class PlanError(PipecutError):
    """A plan folder is damaged, edited, of another version, or fails the checker."""

    exit_code = 4


class RunError(PipecutError):
    """A run failed on some rank."""

    exit_code = 4


class CheckpointError(RunError):
    """A checkpoint cannot be written or read, or does not fit."""


class OtherTrainingError(CheckpointError):
    """A checkpoint is of another training than the one that resumes from it."""

    exit_code = 2


class DivergedError(RunError):
    """The loss is no finite number."""

    # The launcher knows it by this code: a restart would end in the same way.
    exit_code = 76


class PeerLostError(RunError):
    """Another rank ended, so this one cannot go on; the other's message says why."""

    # The launcher knows by this code that another rank failed first.
    exit_code = 75


class DisagreementError(RunError):
    """Ranks differ in what must be equal. Every rank raises it, with the same message."""


class OtherWayError(RunError):
    """A batch makes the model choose otherwise than the plan does, by a tensor's value.

    Every rank raises it, with the same message.
    """


class RankLostError(RunError):
    """A rank ended, and the others with it. `exit_code_of_rank` is None where a signal ended it."""

    def __init__(self, message: str, rank: int, exit_code_of_rank: int | None = None) -> None:
        super().__init__(message)
        self.rank, self.exit_code_of_rank = rank, exit_code_of_rank
