"""Which tenant a request is for, by its host name."""

from time import monotonic

from django_tenants.middleware.main import TenantMainMiddleware

SECONDS = 60


class RememberedTenants(TenantMainMiddleware):
    """Remembers the tenant of a host name for a minute: otherwise each request asks PostgreSQL for it."""

    known: dict = {}

    def get_tenant(self, domain_model, hostname):
        tenant, until = self.known.get(hostname, (None, 0))
        if until < monotonic():
            tenant = super().get_tenant(domain_model, hostname)
            self.known[hostname] = (tenant, monotonic() + SECONDS)
        return tenant
