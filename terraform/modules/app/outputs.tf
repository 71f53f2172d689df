output "app" {
  description = "How the application is reached, and who it is."
  value = {
    task_role_name = aws_iam_role.task.name
    cluster        = aws_ecs_cluster.this.name
    services       = [aws_ecs_service.server.name, aws_ecs_service.worker.name]
    load_balancer  = aws_lb.this.dns_name
    url            = "https://${var.app.base_domain}"
    # By which variables a worker finds its secrets.
    worker_secret_names = sort(keys(local.containers.worker.secrets))
    # Where a task for one administrative command stands.
    task_network = {
      subnets        = var.network.task_subnet_ids
      securityGroups = [var.network.app_security_group_id]
    }
  }
}
