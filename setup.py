"""Package llmguide from settings.ini, the one place for its name, version and requirements."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(ROOT / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def lines(key):
    """The entries of a settings.ini key that holds one entry a line."""
    return [line for line in settings[key].splitlines() if line.strip()]


extras = {key.removesuffix("_requirements"): lines(key) for key in settings if key.endswith("_requirements")}
extras["all"] = sorted({line for name, wanted in extras.items() if name != "dev" for line in wanted})

pythons = range(int(settings["min_python"].split(".")[1]), int(settings["max_python"].split(".")[1]) + 1)
readme = ROOT / "README.md"

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=settings["keywords"],
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in pythons],
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=["llmguide", "llmguide.*"]),
    package_data={"llmguide": ["web/**/*", "assets/**/*"]},
    install_requires=lines("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": lines("console_scripts")},
    zip_safe=False,
)
