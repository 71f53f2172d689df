# Servers behind a load balancer, and workers that nobody reaches. The same image, the same settings.

locals {
  name = "${var.environment}-app"

  common = merge(
    {
      FREEHOLD_BASE_DOMAIN   = var.app.base_domain
      FREEHOLD_PUBLIC_SCHEME = "https"
    },
    var.settings,
  )
  containers = {
    server = {
      command = ["serve"]
      settings = {
        FREEHOLD_HTTP_ADDR     = "0.0.0.0:8080"
        FREEHOLD_METRICS_ADDR  = "0.0.0.0:9090"
        FREEHOLD_BROKER_BUDGET = tostring(var.app.broker_budget)
        FREEHOLD_REPLICAS      = tostring(var.app.server_count)
        FREEHOLD_GRACE_SECONDS = tostring(var.app.grace_seconds)
        FREEHOLD_DRAIN_SECONDS = tostring(var.app.drain_seconds)
      }
      secrets = var.secrets
      ports   = [8080, 9090]
      cpu     = var.app.server_cpu
      mib     = var.app.server_mib
      # Life, not readiness: a server that cannot reach the control database is not cured by being killed, and the load
      # balancer asks for readiness by itself.
      health       = ["CMD", "/usr/local/bin/freehold", "health", "--live"]
      health_every = 15
      health_tries = 3
    }
    worker = {
      command  = ["worker"]
      settings = { FREEHOLD_METRICS_ADDR = "0.0.0.0:9090" }
      secrets  = merge(var.secrets, var.worker_secrets)
      ports    = [9090]
      cpu      = var.app.worker_cpu
      mib      = var.app.worker_mib
      # Nobody else asks whether a worker works. One that has not for five minutes is replaced: it holds nothing.
      health       = ["CMD", "/usr/local/bin/freehold", "health"]
      health_every = 30
      health_tries = 10
    }
  }
}

data "aws_region" "here" {}

resource "aws_ecs_cluster" "this" {
  name = local.name
  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:AWS's own key encrypts it; what is logged holds no rows and no secrets (docs/SECURITY.md)
  for_each          = local.containers
  name              = "/${var.environment}/app/${each.key}"
  retention_in_days = var.app.log_days
}

resource "aws_ecs_task_definition" "this" {
  for_each                 = local.containers
  family                   = "${local.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = each.value.cpu
  memory                   = each.value.mib
  execution_role_arn       = aws_iam_role.start.arn
  task_role_arn            = aws_iam_role.task.arn
  # The recipe before this one stays good: ECS goes back to it by itself, and so may people.
  skip_destroy = true
  # A recipe that names a new secret is of no use before its role may read it.
  depends_on = [aws_iam_role_policy.start]

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.app.cpu_architecture
  }

  container_definitions = jsonencode([{
    name                   = each.key
    image                  = var.app.image
    command                = each.value.command
    essential              = true
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    linuxParameters        = { initProcessEnabled = true }
    stopTimeout            = var.app.grace_seconds + var.app.drain_seconds + 15
    # The image has no other program that could ask.
    healthCheck = {
      command     = each.value.health
      interval    = each.value.health_every
      timeout     = 10
      retries     = each.value.health_tries
      startPeriod = 60
    }
    environment = [
      for name, value in merge(local.common, each.value.settings) : { name = name, value = value }
    ]
    secrets      = [for name, arn in each.value.secrets : { name = name, valueFrom = arn }]
    portMappings = [for port in each.value.ports : { containerPort = port, protocol = "tcp" }]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.this[each.key].name
        "awslogs-region"        = data.aws_region.here.name
        "awslogs-stream-prefix" = each.key
        "mode"                  = "non-blocking"
        "max-buffer-size"       = "16m"
      }
    }
  }])
}

resource "aws_vpc_security_group_ingress_rule" "http" {
  security_group_id            = var.network.app_security_group_id
  referenced_security_group_id = aws_security_group.balancer.id
  description                  = "HTTP from the load balancer"
  ip_protocol                  = "tcp"
  from_port                    = 8080
  to_port                      = 8080
}

# Databases, Redis, identity providers, mail, AWS itself. What may be reached is decided where it stands.
resource "aws_vpc_security_group_egress_rule" "out" {
  security_group_id = var.network.app_security_group_id
  description       = "Out"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_ecs_service" "server" {
  name            = "server"
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.this["server"].arn
  desired_count   = var.app.server_count
  launch_type     = "FARGATE"
  propagate_tags  = "SERVICE"

  # New ones first, old ones drained: no request is lost. A version that does not get healthy is taken back.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.network.task_subnet_ids
    security_groups  = [var.network.app_security_group_id]
    assign_public_ip = false
  }
  load_balancer {
    target_group_arn = aws_lb_target_group.server.arn
    container_name   = "server"
    container_port   = 8080
  }
  depends_on = [aws_lb_listener.https]

  lifecycle {
    # Autoscaling decides; and AWS sets the last one by itself.
    ignore_changes = [desired_count, availability_zone_rebalancing]
  }
}

resource "aws_ecs_service" "worker" {
  name            = "worker"
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.this["worker"].arn
  desired_count   = var.app.worker_count
  launch_type     = "FARGATE"
  propagate_tags  = "SERVICE"

  deployment_minimum_healthy_percent = 50
  deployment_maximum_percent         = 200
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }
  network_configuration {
    subnets          = var.network.task_subnet_ids
    security_groups  = [var.network.app_security_group_id]
    assign_public_ip = false
  }
  lifecycle {
    ignore_changes = [availability_zone_rebalancing]
  }
}

resource "aws_appautoscaling_target" "server" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.server.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.app.server_count
  max_capacity       = var.app.server_max
}

resource "aws_appautoscaling_policy" "cpu" {
  name               = "${local.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.server.service_namespace
  resource_id        = aws_appautoscaling_target.server.resource_id
  scalable_dimension = aws_appautoscaling_target.server.scalable_dimension
  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_out_cooldown = 60
    scale_in_cooldown  = 300
    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
