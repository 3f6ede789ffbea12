# Metadata and tools stand in pyproject.toml. The list of packages stays here: "twisted.plugins" has no
# __init__.py (one would hide Twisted's own package), so no discovery finds just the drop-in.
from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pipeops_agent", "pipeops_agent.*"]), "twisted.plugins"],
    # _build.json: what an image's build writes beside the code (pipeops_agent/build.py); a checkout has none.
    package_data={"pipeops_agent": ["py.typed", "_build.json"]},
    include_package_data=False,
)
