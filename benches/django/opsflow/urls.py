"""The two requests that are measured. Rows are read as plain values and written by orjson: the shortest way that Django has."""

from base64 import urlsafe_b64encode

import orjson
from django.http import Http404, HttpResponse
from django.urls import path

from .models import Project, Task

PROJECT = ["id", "name", "description", "status", "version", "created_by", "created_at", "updated_at"]
TASK = [
    "id",
    "project_id",
    "title",
    "description",
    "status",
    "priority",
    "assignee",
    "due_at",
    "version",
    "created_by",
    "created_at",
    "updated_at",
]
ROWS = 20


def answer(body) -> HttpResponse:
    text = orjson.dumps(body, option=orjson.OPT_UTC_Z)
    # Without a length it would be sent in chunks.
    return HttpResponse(text, headers={"content-type": "application/json", "content-length": str(len(text))})


def project(_, id):
    try:
        return answer(Project.objects.filter(deleted_at=None).values(*PROJECT).get(id=id))
    except Project.DoesNotExist:
        raise Http404 from None


def tasks(request):
    found = Task.objects.filter(deleted_at=None)
    if status := request.GET.get("status"):
        found = found.filter(status__in=status.split(","))
    # One more tells whether there is another page.
    rows = list(found.order_by("-created_at", "-id").values(*TASK)[: ROWS + 1])
    more, rows = len(rows) > ROWS, rows[:ROWS]
    return answer({"items": rows, "next_cursor": cursor(rows[-1]) if more else None})


def cursor(row) -> str:
    return urlsafe_b64encode(orjson.dumps(["-created_at", row["created_at"], row["id"]])).decode()


urlpatterns = [
    path("api/v1/projects/<uuid:id>", project),
    path("api/v1/tasks", tasks),
]
