"""Judges a policy as the daemon would at its next start, without the daemon: `check`."""

import os
from dataclasses import dataclass

from sockbroker.command_line import CommandFailed
from sockbroker.core.modes import parent_mode_risk
from sockbroker.core.policy import Policy, PolicyError, Problems
from sockbroker.core.policy_reader import read_policy
from sockbroker.core.resolution import lookups, resolve
from sockbroker.kernel import accounts, policyfile
from sockbroker.kernel.policyfile import PolicyFileError

DEFAULT_FILE = "/etc/sockbroker.yaml"

# As long as the daemon gives the user database when it starts.
SECONDS_FOR_LOOKUPS = 5.0


class Unreadable(CommandFailed):
    """The policy could not be read, so it is neither good nor bad; the text says the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with a policy, and what is only worth a look, each with its place."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(file: str) -> Verdict:
    """Judge a policy; owner and permissions only of the file that the daemon reads by default.

    Raises Unreadable.
    """
    trusted = os.path.abspath(file) == DEFAULT_FILE
    try:
        document = read_policy(policyfile.read(file, trusted=trusted), file)
        known = accounts.look_up(lookups(document), deadline_seconds=SECONDS_FOR_LOOKUPS)
        policy = resolve(document, known, accounts.login_defs_range())
    except PolicyError as error:
        return Verdict(problems=error.problems, warnings=())
    except PolicyFileError as error:
        if isinstance(error.__cause__, OSError):
            mend = "; run it as root" if isinstance(error.__cause__, PermissionError) else ""
            raise Unreadable(f"{error}{mend}") from error
        return Verdict(problems=(str(error),), warnings=())
    return Verdict(problems=(), warnings=(*policy.warnings, *_risks(policy)))


def _risks(policy: Policy) -> tuple[str, ...]:
    """Return what a policy may want at its own risk; of that the daemon does not speak."""
    risks = Problems()
    for app in policy.apps.values():
        risk = parent_mode_risk(app.parent_mode, app.parent_gid)
        if risk is not None:
            risks.add(app.position, f"app {app.name}: {risk}")
    return risks.render(policy.file)
