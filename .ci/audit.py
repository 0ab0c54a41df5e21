"""Look the pinned packages up among known vulnerabilities: audit.py PIP-AUDIT FILE.

Ends with 1 where a package has one. Where no list can be reached, which a package index without one says by not knowing
the packages, a line says so, and nothing fails.
"""

import json
import subprocess
import sys
from typing import Any

UNREACHED = ("ConnectionError", "Timeout", "Could not connect", "Max retries exceeded")


def main(program: str, requirements: str) -> str:
    """What was found in the file, in a line each; the exit code is 1 where anything was."""
    command = [program, "--format", "json", "--progress-spinner", "off", "--disable-pip", "--no-deps"]
    done = subprocess.run([*command, "--requirement", requirements], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        last = (done.stderr.strip().splitlines() or ["no word why"])[-1][:200]
        if any(word in done.stderr for word in UNREACHED):
            return f"no audit: the list of vulnerabilities cannot be reached ({last})"
        sys.exit(f"the audit failed: {last}")
    packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        return "no audit: this package index has no list of vulnerabilities"
    found = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in known
        for fault in package["vulns"]
    ]
    if found:
        sys.exit("\n".join(found))
    unknown = len(packages) - len(known)
    return f"no known vulnerability in {len(known)} packages" + (f"; {unknown} are not on the list" if unknown else "")


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
