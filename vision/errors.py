"""Errors that a user can cause and fix; the command line prints them in one line and exits with code 2."""


class UserError(ValueError):
    """Something the user gave is wrong; the message says what came, what was expected and what would be right."""


class ConfigError(UserError):
    """A configuration file or override is wrong; the message holds the path of the key."""


class SourceError(UserError):
    """An image, folder, video or camera cannot be read."""


class ModelFileError(UserError):
    """A checkpoint, an exported model or its manifest cannot be used."""


class DatasetError(UserError):
    """Annotations or the images they name are wrong."""


class MissingPackageError(UserError):
    """An optional package is not installed; the message holds the command that adds it."""


class TrackingError(RuntimeError):
    """Invalid input of a tracker: time that runs backwards, boxes that are not finite."""
