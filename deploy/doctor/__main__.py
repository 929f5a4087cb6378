"""Command line: `python -m deploy.doctor`, with `app` on PYTHONPATH (`make doctor` sets it).

Exit status 1 when something is wrong.
"""

import sys
from pathlib import Path

from deploy.doctor import files, live
from deploy.doctor.findings import Finding, Verdict, judge, skip
from deploy.doctor.stack import RunningStack
from deploy.stack import environment, runtime
from deploy.stack.errors import StackError

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".stack"


def main() -> int:
    """Make every check, print a line for each; returns the exit status."""
    findings: list[Finding] = []
    try:
        findings += files.check(ROOT)
        findings += _check_stack()
    except StackError as error:
        findings += judge("the files can be read", [str(error)])
    for finding in findings:
        print(finding)
    wrong = sum(finding.verdict is Verdict.WRONG for finding in findings)
    print(f"\n{wrong} of {len(findings)} need you." if wrong else "\nNothing is wrong.")
    return 1 if wrong else 0


def _check_stack() -> list[Finding]:
    values = environment.load(ROOT)
    stack = RunningStack(runtime.choose(values, STATE / "runtime"), ROOT, STATE, values)
    check = "the running stack"
    try:
        status = stack.status()
    except StackError as error:
        return skip(check, f"it cannot be asked: {error}")
    if not status:
        return skip(check, "it is not running; start it with make up")
    findings = live.services(status)
    try:
        return [*findings, *live.all_of(stack.facts())]
    except StackError as error:
        return [*findings, *judge("the web role answers", [f"manage doctor_facts: {error}"])]


if __name__ == "__main__":
    sys.exit(main())
