"""What can be wrong with a study, or with what somebody wants of it.

RuntimeFault
└── StudyFault
    ├── InvalidStudyName, InvalidSite, InvalidStudyUser, InvalidStudy
    ├── StudyNotFound, StudyAlreadyExists, StudyHasJobs, StudyMismatch, StudyRegistryUnusable
    ├── UnknownSite, SiteNotInOrg, SiteNotInStudy, SiteAlreadyInStudy
    └── UserNotInStudy, UserAlreadyInStudy
"""

from __future__ import annotations

from clouddeploy_runtime.errors import ExitCode, RuntimeFault


class StudyFault(RuntimeFault):
    """A study is not as a command, a login or a job needs it."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "STUDY_FAULT"


class InvalidStudyName(StudyFault):
    """A name is none that a study can have."""

    error_code = "INVALID_STUDY_NAME"


class InvalidSite(StudyFault):
    """A name of a site or of an organisation is none."""

    error_code = "INVALID_SITE"


class InvalidStudyUser(StudyFault):
    """A name of a person or of a role is none."""

    error_code = "INVALID_STUDY_USER"


class InvalidStudy(StudyFault):
    """An entry of a registry contradicts itself or the format."""

    error_code = "INVALID_STUDY"


class StudyNotFound(StudyFault):
    """There is no study of this name, or none that the asker may see."""

    error_code = "STUDY_NOT_FOUND"


class StudyAlreadyExists(StudyFault):
    """There is a study of this name already."""

    error_code = "STUDY_ALREADY_EXISTS"


class StudyHasJobs(StudyFault):
    """Jobs of the study have not ended."""

    error_code = "STUDY_HAS_JOBS"


class StudyMismatch(StudyFault):
    """A job names another study than the session that submits it."""

    error_code = "STUDY_MISMATCH"


class StudyRegistryUnusable(StudyFault):
    """A file with the server's studies cannot be read or written; until then there is only `default`."""

    exit_code = ExitCode.FAILED
    error_code = "STUDY_REGISTRY_UNUSABLE"


class UnknownSite(StudyFault):
    """The server knows no site of this name: none was ever connected, and no study names it."""

    error_code = "UNKNOWN_SITE"


class SiteNotInOrg(StudyFault):
    """A site belongs to another organisation than the one named, or than the asker's."""

    error_code = "SITE_NOT_IN_ORG"


class SiteNotInStudy(StudyFault):
    """A site takes no part in the study."""

    error_code = "SITE_NOT_IN_STUDY"


class SiteAlreadyInStudy(StudyFault):
    """A site takes part in the study already."""

    error_code = "SITE_ALREADY_IN_STUDY"


class UserNotInStudy(StudyFault):
    """A person is no member of the study."""

    error_code = "USER_NOT_IN_STUDY"


class UserAlreadyInStudy(StudyFault):
    """A person is a member of the study already."""

    error_code = "USER_ALREADY_IN_STUDY"


ERRORS: tuple[type[StudyFault], ...] = (
    InvalidStudyName,
    InvalidSite,
    InvalidStudyUser,
    InvalidStudy,
    StudyNotFound,
    StudyAlreadyExists,
    StudyHasJobs,
    StudyMismatch,
    StudyRegistryUnusable,
    UnknownSite,
    SiteNotInOrg,
    SiteNotInStudy,
    SiteAlreadyInStudy,
    UserNotInStudy,
    UserAlreadyInStudy,
)
"""Every one that a server may answer with."""
