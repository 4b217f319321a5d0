"""Pictures with labels: reading, checking, few-shot sampling, features and their cache."""

from vlmadapt.data.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from vlmadapt.data.builtin import BUILTIN, BuiltinStatus, builtin_status
from vlmadapt.data.cache import FeatureCache, user_cache_dir
from vlmadapt.data.check import CheckReport, check_dataset
from vlmadapt.data.coop import read_coop_split
from vlmadapt.data.feature_file import read_feature_file
from vlmadapt.data.features import Extraction, extract_features
from vlmadapt.data.folder import read_folder
from vlmadapt.data.given import Given
from vlmadapt.data.load import load_dataset
from vlmadapt.data.sampling import FewShotSplit, sample_shots
from vlmadapt.data.table import Columns, read_table
from vlmadapt.data.templates import TEMPLATES, templates_for
from vlmadapt.data.types import Dataset, Row, Sample

__all__ = [
    "BENCHMARKS",
    "BUILTIN",
    "TEMPLATES",
    "Benchmark",
    "BuiltinStatus",
    "CheckReport",
    "Columns",
    "Dataset",
    "Extraction",
    "FeatureCache",
    "FewShotSplit",
    "Given",
    "Row",
    "Sample",
    "builtin_status",
    "check_dataset",
    "extract_features",
    "load_benchmark",
    "load_dataset",
    "read_coop_split",
    "read_feature_file",
    "read_folder",
    "read_table",
    "sample_shots",
    "templates_for",
    "user_cache_dir",
]
