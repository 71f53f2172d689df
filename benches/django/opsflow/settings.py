"""django-tenants as one would tune it: no more than the two requests need."""

import os

DEBUG = False
# Nothing is signed with it: there are no sessions and no forms.
SECRET_KEY = "of the bench"
ALLOWED_HOSTS = [".localhost"]
ROOT_URLCONF = "opsflow.urls"
LOGGING_CONFIG = None
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

TENANT_APPS = ["opsflow"]
INSTALLED_APPS = ["opsflow", "django.contrib.contenttypes", "django_tenants"]
TENANT_MODEL = "opsflow.Tenant"
TENANT_DOMAIN_MODEL = "opsflow.Domain"
PUBLIC_SCHEMA_NAME = "django"
# The search path is set once a request, not once a cursor.
TENANT_LIMIT_SET_CALLS = True
MIDDLEWARE = ["opsflow.middleware.RememberedTenants"]

DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
DATABASES = {
    "default": {
        "ENGINE": "django_tenants.postgresql_backend",
        # Server and login are in libpq's own variables.
        "NAME": os.environ["PGDATABASE"],
        # Each thread keeps its connection; a pool would only hand it round.
        "CONN_MAX_AGE": None,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
