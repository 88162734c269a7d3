"""cloudmanager cleanup"""

import sys

from cloudmanager.cli.people import output
from cloudmanager.client import ways


def cleanup(*, as_json: bool) -> int:
    """Returns how much could not be undone."""
    outcomes = ways.cleanup()
    failed = [outcome for outcome in outcomes if not outcome.is_undone]
    if as_json:
        output.print_items({"what": each.what, "undone": each.is_undone, "error": each.error} for each in outcomes)
        return len(failed)
    for outcome in outcomes:
        if outcome.is_undone:
            print(f"undone: {outcome.what}")
        else:
            print(f"cloudmanager: {outcome.what}: {outcome.error}", file=sys.stderr)
    if not outcomes:
        print("There is nothing to undo.")
    return len(failed)
