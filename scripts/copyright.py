"""python scripts/copyright.py: the file `copyright` of the Debian package, from what each installed distribution says.

Runs in the environment that is packaged. The texts of the licences are in each distribution's .dist-info folder.
"""

import re
from importlib.metadata import distributions


def licence(headers: dict[str, list[str]]) -> str:
    """The licence as its authors name it; a text instead of a name is cut to its first line."""
    classes = [each.rsplit(" :: ", 1)[-1] for each in headers["Classifier"] if each.startswith("License ::")]
    for said in (*headers["License-Expression"], *headers["License"], ", ".join(classes)):
        if said.strip():
            return said.strip().splitlines()[0][:90]
    return "see its .dist-info folder"


def main() -> None:
    print("This package carries Prognode and, in /usr/lib/prognode, distributions of PyPI under their own licences:\n")
    found = {}
    for each in distributions():
        headers = {name: each.metadata.get_all(name) or [] for name in ("Classifier", "License", "License-Expression")}
        name = re.sub(r"[-_.]+", "-", each.name).lower()
        found[name] = f"{name} {each.version}: {licence(headers)}"
    print("\n".join(text for name, text in sorted(found.items()) if name != "prognode"))
    print("\nThe text of each licence is in /usr/lib/prognode/lib/python3.11/site-packages/NAME-VERSION.dist-info.")


if __name__ == "__main__":
    main()
