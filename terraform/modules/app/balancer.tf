# The way in: TLS for the base domain and every tenant below it. One wildcard record serves all tenants: none of them
# waits for DNS.

resource "aws_acm_certificate" "this" {
  domain_name               = var.app.base_domain
  subject_alternative_names = ["*.${var.app.base_domain}"]
  validation_method         = "DNS"
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_route53_record" "validation" {
  # Both names have one and the same record.
  zone_id         = var.app.hosted_zone_id
  name            = tolist(aws_acm_certificate.this.domain_validation_options)[0].resource_record_name
  type            = tolist(aws_acm_certificate.this.domain_validation_options)[0].resource_record_type
  records         = [tolist(aws_acm_certificate.this.domain_validation_options)[0].resource_record_value]
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "this" {
  certificate_arn         = aws_acm_certificate.this.arn
  validation_record_fqdns = [aws_route53_record.validation.fqdn]
}

resource "aws_security_group" "balancer" {
  name        = "${local.name}-balancer"
  description = "The load balancer of ${var.environment}"
  vpc_id      = var.network.vpc_id
  tags        = { Name = "${local.name}-balancer" }
}

resource "aws_vpc_security_group_ingress_rule" "web" {
  #checkov:skip=CKV_AWS_260:port 80 answers with a redirect to 443 and nothing else
  for_each          = { http = 80, https = 443 }
  security_group_id = aws_security_group.balancer.id
  description       = "${each.key} from anywhere"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_vpc_security_group_egress_rule" "to_servers" {
  security_group_id            = aws_security_group.balancer.id
  referenced_security_group_id = var.network.app_security_group_id
  description                  = "HTTP to the servers"
  ip_protocol                  = "tcp"
  from_port                    = 8080
  to_port                      = 8080
}

resource "aws_lb" "this" {
  #checkov:skip=CKV2_AWS_28:which firewall, and its rules, is for whoever runs it to choose; tenants have rate limits of their own
  #checkov:skip=CKV_AWS_91:each request is a line of the server, without the query string that the balancer would keep
  name                       = local.name
  load_balancer_type         = "application"
  security_groups            = [aws_security_group.balancer.id]
  subnets                    = var.network.public_subnet_ids
  drop_invalid_header_fields = true
  enable_deletion_protection = var.app.deletion_protection
  # Shorter than the server keeps an idle connection (75 s): closed by the other side in the moment of sending, a request is
  # lost. Longer than the longest silence of a stream of progress (15 s).
  idle_timeout = 60
}

resource "aws_lb_target_group" "server" {
  name                 = "${local.name}-server"
  vpc_id               = var.network.vpc_id
  port                 = 8080
  protocol             = "HTTP"
  target_type          = "ip"
  deregistration_delay = var.app.drain_seconds
  # Readiness, not life: a server that drains gets no new requests. One that has served keeps on without the control database;
  # one that has not yet is replaced until it can begin.
  health_check {
    path                = "/health/ready"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = aws_acm_certificate_validation.this.certificate_arn
  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.server.arn
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"
  default_action {
    type = "redirect"
    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_route53_record" "app" {
  for_each = toset([var.app.base_domain, "*.${var.app.base_domain}"])
  zone_id  = var.app.hosted_zone_id
  name     = each.value
  type     = "A"
  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = true
  }
}
