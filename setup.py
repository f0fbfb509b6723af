"""What pyproject.toml cannot say: the templates, the static files and the documented IAM policy lie beside the packages
in a checkout, and within `registry_admin` in an installed package. `registry_admin.settings` finds them in both places.
"""

import shutil
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = {
    "registry_admin.templates": ("templates", ["**/*"]),
    "registry_admin.static": ("static", ["**/*"]),
    "registry_admin.docs": ("docs", ["iam-policy.json"]),
}


class Build(build_py):
    def run(self) -> None:
        """pip builds in the checkout: `build` may have modules of an earlier version, which would be installed too."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, folder: str) -> Any:
        """None of the folders above: docs has a script that no installed package needs."""
        return [] if package in FOLDERS else super().find_package_modules(package, folder)


setup(
    packages=[*find_packages(include=["deployments*", "registry_admin*"]), *FOLDERS],
    package_dir={package: folder for package, (folder, _) in FOLDERS.items()},
    package_data={package: files for package, (_, files) in FOLDERS.items()},
    cmdclass={"build_py": Build},
)
