# One tenant's resources. The workspace is the tenant's id.

provider "aws" {
  default_tags {
    tags = {
      "freehold:environment" = var.environment
      "freehold:tenant"      = var.tenant.id
      "freehold:slug"        = var.tenant.slug
      "freehold:managed-by"  = "terraform"
    }
  }
}

module "tenant" {
  source        = "../modules/tenant"
  environment   = var.environment
  tenant        = var.tenant
  platform      = var.platform
  tenant_secret = var.tenant_secret
}

output "tenant" {
  description = "What the registry keeps of it."
  value       = module.tenant.tenant
}
