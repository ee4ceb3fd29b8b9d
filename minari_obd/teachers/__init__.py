"""Teachers: policies with values that are frozen before distillation starts."""

from minari_obd.teachers.actions import bounded_actions
from minari_obd.teachers.frozen import FrozenTeacher, Teacher, describe_teacher
from minari_obd.teachers.loading import load_teacher

__all__ = ["FrozenTeacher", "Teacher", "bounded_actions", "describe_teacher", "load_teacher"]
