# One shard: a database server. The workspace is the shard's name.

provider "aws" {
  default_tags {
    tags = merge(
      {
        "freehold:environment" = var.environment
        "freehold:shard"       = var.shard.name
        "freehold:managed-by"  = "terraform"
      },
      var.tenant_id == null ? {} : { "freehold:tenant" = var.tenant_id },
    )
  }
}

module "shard" {
  source         = "../modules/shard"
  environment    = var.environment
  shard          = var.shard
  network        = var.network
  admin_password = var.admin_password
}

output "shard" {
  description = "What `freehold shard add` is told."
  value       = module.shard.shard
}
