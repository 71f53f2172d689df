output "platform" {
  description = "What the roots of shards and tenants are told."
  value = {
    account_id       = data.aws_caller_identity.here.account_id
    region           = data.aws_region.here.name
    shared_bucket    = aws_s3_bucket.shared.bucket
    app_task_role_id = module.app.app.task_role_name
  }
}

output "network" {
  description = "Where a shard stands, and who may reach it."
  value = {
    vpc_id                    = module.network.network.vpc_id
    data_subnet_ids           = module.network.network.data_subnet_ids
    client_security_group_ids = { app = module.network.network.app_security_group_id }
  }
}

output "app" {
  description = "How the application is reached."
  value       = module.app.app
}
