"""Which versions a library takes, as its own package says."""

from collections.abc import Iterable, Mapping

from packaging.requirements import Requirement


def misfits(requirements: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """What is installed in a version that the library does not take.

    Args:
        requirements: As `importlib.metadata.requires` gives them. Those of extras, and for other
            machines, do not count.
        installed: Version of each package that matters; others are passed over.

    Returns:
        For each misfit the package, the range that is taken, and the version that is there.
    """
    wanted = [Requirement(text) for text in requirements]
    return [
        f"{one.name} {one.specifier} ({installed[one.name]} is installed)"
        for one in wanted
        if one.name in installed
        and (one.marker is None or one.marker.evaluate({"extra": ""}))
        and not one.specifier.contains(installed[one.name], prereleases=True)
    ]
