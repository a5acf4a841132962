"""Version of the package, in a module that can be read without importing the others."""

__version__ = "0.1.0"
INSTALL_VLLM = "pip install 'rest-trl[vllm]', in a clone pip install '.[vllm]'"
